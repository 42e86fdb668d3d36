"""Small counterparts of the paper's claims: protocols, what was measured, and the page of both."""
