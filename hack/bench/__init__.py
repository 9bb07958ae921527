"""What `make bench-optimize` compares: real models, real inputs, and the tools an expert would use by hand."""
