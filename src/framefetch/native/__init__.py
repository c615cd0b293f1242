"""What is done without the interpreter, in C; and where that cannot be, the same in Python."""
