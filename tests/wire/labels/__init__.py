"""What earns a label, on the wire."""
