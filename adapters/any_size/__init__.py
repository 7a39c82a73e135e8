"""Models that timm builds for one image size, run at any."""
