"""The accelerator's sources: DSLX kernels (*.x), Verilog (*.v) and templates (*.j2).

Package data only; codegen/hls.py compiles the kernels and codegen/toplevel.py wires them.
"""
