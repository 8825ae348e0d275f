"""What is trained for: one file per task."""
