"""Likelihoods: something that can be evaluated, and the scores that everything else reads."""
