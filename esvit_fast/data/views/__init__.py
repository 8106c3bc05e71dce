"""What networks see of an image: crops and augmentation, and the random numbers of both."""
