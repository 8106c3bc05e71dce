"""What takes many runs or hours: what a recipe learns, collapses, and runs whose processes are killed."""
