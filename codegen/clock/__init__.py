"""Foretells the clock of an accelerator: a static timing model of the netlist that Yosys maps.

Read in this order: `delays` (what a cell and a wire take), `netlist` (what Yosys wrote), `cells`
(the ways through each kind of cell), `analysis` (the longest way from register to register),
`report` (what people see).
"""
