"""Full-size models, with random weights: every node accounted for, and a program comes out.

The constants of the integer network are made up, since calibrating costs minutes: what a schedule
depends on are shapes.
"""
