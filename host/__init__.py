"""What runs beside the accelerator; depends on nothing else of vitessera."""
