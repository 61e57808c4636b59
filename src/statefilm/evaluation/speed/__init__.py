"""How fast and how large: ops, denoisers and whole generations, measured against their floors."""
