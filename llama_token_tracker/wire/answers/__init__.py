"""What answers say, whichever library hands over their bytes."""
