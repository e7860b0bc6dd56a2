"""MobileViT in plain NumPy."""
