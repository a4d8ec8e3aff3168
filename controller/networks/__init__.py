"""What the networks of denoisers and segmenters share: architecture, weights on disk, execution."""
