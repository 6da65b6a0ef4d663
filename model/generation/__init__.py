"""One call of the generator. `prepared` checks it whole, `steps` run it (base, refiner, decoding), `components` are
what they run on, and `wire` carries its values between processes.
"""
