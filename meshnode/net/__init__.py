"""The network limbs: links, the switch, gossip, the DHT, membership. IO that decides nothing."""
