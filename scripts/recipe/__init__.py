"""How the shipped model `visual-r1/tiny-geometry` is made; see ../make_tiny_geometry.py."""
