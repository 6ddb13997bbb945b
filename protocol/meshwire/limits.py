"""Every bound of the wire, named once and quoted by specs/. Sizes are in bytes; a unit ends the other names."""

# --- Messages and frames ---
TRANSPORT_MESSAGE_MAX = 65_535  # one sealed message; the Noise limit
CONTROL_FRAME_MAX = 16 * 1024
DATA_FRAME_MAX = 32 * 1024
AEAD_TAG = 16
PLAINTEXT_MAX = TRANSPORT_MESSAGE_MAX - AEAD_TAG

# --- msgpack: an empty map is 1 byte on the wire and 64 in memory ---
DEPTH_MAX = 8
ARRAY_MAX = 256
MAP_MAX = 64
KNOWN_KEYS = 64  # integer keys below are known or refused; at and above are left for growth

# --- Records ---
RECORD_MAX = 1024
DIGEST_MAX = 256  # entries
RECORDS_TOTAL = 4096  # a mesh of 1,000 nodes, each with its ad, its vitals and two models
RECORDS_PER_PEER = 16
RECORD_TTL_CAP_S = 366 * 24 * 3600  # certificates of issuers live longest
CLOCK_TOLERANCE_S = 600

# --- Requests ---
PROMPT_MAX = 1024 * 1024
RESPONSE_MAX = 4 * 1024 * 1024
CHUNK_TOKENS = 128  # in one message, each perhaps with its likelihood and that of others
ANSWER_TOKENS = 64 * 1024  # written before and resumed, or in one piece
VECTOR_MAX = 64 * 1024

# --- Weights ---
BLOB_CHUNK_MIN = 1024 * 1024
BLOB_CHUNKS_MAX = 32_768  # longer files have longer chunks
BLOB_SIZE_MAX = 1 << 40
BLOB_PAYLOAD = DATA_FRAME_MAX - 64  # two fill a stream's credit, and a transport message
BLOB_STREAMS_PER_KEY = 4
BLOB_STREAMS = 16
BLOB_PEERS = 8
BLOB_IDLE_S = 60.0
BLOB_STALL_S = 15.0

# --- Credit and streams ---
STREAM_CREDIT = 64 * 1024
CONNECTION_CREDIT = 1024 * 1024
INBOUND_STREAMS = 64
PENDING_OPENS = 32
PENDING_REQUESTS = 64

# --- Connections ---
LINKS_PER_KEY = 2
LINKS_TOTAL = 128
UNAUTHENTICATED_PER_ADDRESS = 8
UNAUTHENTICATED_RATE_PER_S = 0.2
UNAUTHENTICATED_BURST = 10
HANDSHAKE_S = 10.0
WRITE_STALL_S = 2.0
PING_S = 5.0
DEAD_LINK_S = 10.0
ANSWER_PROBE_S = 0.75  # a link on which an answer is due is asked after so much silence
PROBE_ANSWER_S = 1.0  # and suspected when nothing has come for so long since, or longer where round trips are

# --- Answers that break off ---
REPLAY_BYTES = 64 * 1024  # kept of one answer, counted as credit is: as much as may be under way
REPLAY_S = 10.0  # how long it is kept without a link, and after its end
REPLAYS_PER_KEY = 16
REPLAYS_TOTAL = 128

# --- What lengths and times tell of an answer ---
PAD_BYTES = 128  # what messages of class private are padded to a multiple of
PAD_STEADY_BYTES = 512  # and those of class sensitive
GATHER_S = 0.05  # from one message of class private to the next
STEADY_S = 0.1  # one message of class sensitive in each
STEADY_END_STEPS = 5  # of which the length of an answer is a multiple

# --- Liveness ---
PROBE_S = 1.0  # how often a watcher asks
ACCUSERS_NEEDED = 2  # or all watchers, if there are fewer
ACCUSATIONS_PASSED = 4  # more about one node are news to nobody
ACCUSATIONS_TOTAL = 4096
ACCUSATIONS_PER_ACCUSER = LINKS_TOTAL
REFUTE_EVERY_S = 1.0

# --- DHT ---
DHT_K = 20
DHT_ALPHA = 3
DHT_RPC_S = 3.0
DHT_QUERY_S = 10.0
DHT_HEAP = 128
DHT_QUERY_RPCS = 64
DHT_GROUP_PER_BUCKET = 2  # contacts of one address group, in meshes that anybody may join
DHT_GROUP_PER_TABLE = 10
DHT_GROUP_PER_PATH = 4  # asked on one path of a lookup
PROVIDERS_KEPT = 64
PROVIDERS_RETURNED = 10
KEYS_KEPT = 1000
STORED_PER_OWNER = 2 * RECORDS_PER_PEER + 1  # two keys for each of its models, and its own
STORES_PER_PEER = 10
STORES_WINDOW_S = 10.0
ANNOUNCE_S = 300.0
PROVIDER_TTL_S = 900

# --- Routes ---
ROUTE_LINKS = 3
SEEN_S = 120.0
SEEN_MAX = 10_000
CIRCUITS_PER_KEY = 16
HELD_LEAST_S = 0.5  # a place that a PROBE reserves: so long, or two round trips where they are longer
HELD_ROUND_TRIPS = 2.0
HELD_MAX_S = 4.0
PLACES_TOTAL = 256
RELAY_RESERVATIONS = 32
RELAY_LEASE_S = 3600
CIRCUIT_IDLE_S = 600.0
