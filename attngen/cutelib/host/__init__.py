"""What a compiled CuTe host function does, read out of its code: launches as plain data.

The compiler lowers the host side of a kernel (views, tensor descriptors, grid, launches) to integer
arithmetic and stores. Run on symbols instead of numbers it says what every parameter of every
launch is made of, so that a launcher without the compiler passes the same bytes.
"""
