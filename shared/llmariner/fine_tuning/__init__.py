"""Fine-tuning jobs: their rules, rows, events, and the program that trains."""
