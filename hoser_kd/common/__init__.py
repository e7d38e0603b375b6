"""What every other package uses: arrays, errors, files, hashing, geodesy, progress, devices and the optimizer."""
