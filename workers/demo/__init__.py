"""
`sluice demo`: a small story of signed events through the stack that runs.

    setting   the sources and the plans, named demo-… only
    bodies    the events, as Stripe shapes them
    sending   over HTTP, signed
    pushing   the same as a partner, and what an application reads
    watching  what became of them, read from the database
    play      what the scenes share
    results   the scene of those two
    story     the scenes, and what each has to prove
    proof     the audit trail
    stage     what a person sees

Nothing here is known to the rest of the product, which has no switch that makes anything fail:
the faults of the story are made from outside, as they are in life.
"""
