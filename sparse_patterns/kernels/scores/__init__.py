"""What changes scores besides the product of query and key: caps, sinks and biases of distances."""
