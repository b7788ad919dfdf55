"""Training: data sets, augmentation, optimisers, learning-rate schedules, and the loop that joins them."""
