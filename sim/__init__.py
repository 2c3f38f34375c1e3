"""The simulated accelerator: Verilator and cocotb around the generated RTL."""
