"""The operations in C for a CPU, which the system's compiler builds on first use."""
