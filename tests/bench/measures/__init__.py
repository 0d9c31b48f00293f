"""What is measured, one file each: the load, and how a figure is made from it."""
