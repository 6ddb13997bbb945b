"""What the machine is doing: input, processor, power, heat, memory. It reads; what follows from it is elsewhere."""
