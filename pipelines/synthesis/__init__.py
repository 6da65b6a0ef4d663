"""A procedural film studio: real files with exact annotations, from a seed.

    film = sample_film(7, size=(256, 256), seconds=4, sound="speech")   # sampler.py: a Film is plain data (film.py)
    rendered = render(film)                                             # studio.py: frames, sound, annotation
    pair = make_pair(film, "delete")                                    # pairs.py: before, after, instruction, masks
    render_world("world", 72)                                           # world.py: a labelled folder of many files

Picture and sound come from one solved motion (physics.py), so an impact sounds at the very time it is seen.
"""
