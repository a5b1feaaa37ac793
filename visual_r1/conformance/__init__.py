"""What a Tinker server does of all that training asks of it: `visual-r1 probe`."""
