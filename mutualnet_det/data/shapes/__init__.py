"""Generated data: images of coloured shapes, with what each task needs to learn from them."""
