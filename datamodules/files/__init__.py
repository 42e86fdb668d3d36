"""Files on disk: find them, read them, split them, cache what is made of them."""
