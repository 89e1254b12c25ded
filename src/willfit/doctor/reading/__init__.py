"""Reading text of any size: decoded, cleaned of colours and prefixes, cut to what matters."""
