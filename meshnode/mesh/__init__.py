"""The mesh as plain data: keyspace, tables, lookups, records, paths. Time, keys and rng are arguments."""
