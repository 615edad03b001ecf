"""Human judgements: a local page that shows samples, and the evaluation of the judgements."""
