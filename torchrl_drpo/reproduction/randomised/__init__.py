"""Target ``randomised``: learn from ratings that users chose to give, be judged on random ones."""
