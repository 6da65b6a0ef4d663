"""A pool in slices, and its dataset slice by slice: each finished by itself, all of them told together, and what
billions of rows will take."""
