"""Small helpers of floor 1 that every other folder may use: errors, images, seeding."""
