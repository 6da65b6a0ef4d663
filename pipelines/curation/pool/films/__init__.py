"""Long films, which are divided: `steps` runs and commits what of a film can be done beside the rest, `copies` has it
on the node that works on it, `stretches` is what the child does of each step."""
