"""What a description may not tell the second pass: masking, and what is masked."""
