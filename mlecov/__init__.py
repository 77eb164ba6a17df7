"""Write down a log-likelihood; get the estimates and every covariance of them."""
