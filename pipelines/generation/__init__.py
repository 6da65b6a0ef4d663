"""From a request to a file: what a command line and a server share.

`request` says what is asked for, `decoding` and `media` read the files that it names, `arguments` makes a call of it,
`render` runs the call and `output` writes the clip.
"""
