"""From a request to a file: what a command line and a server share.

`request` says what is asked for, `prepare` checks it and reads its files (by `media`, which decodes in a child process
that runs `decoding`), and `render` makes the clip and writes it, a long one in `windows`; `finishing` lets an operator
sign it.
"""
