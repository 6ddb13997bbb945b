"""Who is in, and how far they are trusted: certificates, tickets, membership. Pure."""
