"""Will this model fit on my GPU, and if not, what is the smallest change that makes it fit?"""
