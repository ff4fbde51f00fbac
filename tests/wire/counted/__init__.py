"""What our own counts cover, and say that they do, on the wire."""
