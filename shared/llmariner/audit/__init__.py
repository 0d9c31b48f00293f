"""Who did what to whom: every administrative act and login, chained so that nobody rewrites it unseen."""
