/** Times in milliseconds. First what the WireGuard protocol fixes, then our own choices. */

// WireGuard paper §6.1
export const REKEY_AFTER_TIME = 120_000
export const REJECT_AFTER_TIME = 180_000
export const REKEY_ATTEMPT_TIME = 90_000
export const REKEY_TIMEOUT = 5_000
export const KEEPALIVE_TIMEOUT = 10_000
/** §6.1: 2^60 and 2^64 − 2^13 − 1. Ours are smaller: counters are exact JavaScript numbers. */
export const REKEY_AFTER_MESSAGES = 2 ** 48
export const REJECT_AFTER_MESSAGES = 2 ** 49
/** §5.3 and §5.4.7: the cookie secret changes, and a cookie is used, for this long. */
export const COOKIE_LIFETIME = 120_000
/** An initiator stops using a cookie a little earlier, for the time it travelled. */
export const COOKIE_MARGIN = 5_000
/** As in the kernel: at most 50 initiations per second of one peer are answered. */
export const INITIATION_INTERVAL = 20
/** As the kernel: jitter that keeps two ends from initiating in step. */
export const HANDSHAKE_JITTER = 333

// Per-source limit under load, as the kernel: 20 a second, bursts of 5.
export const SOURCE_RATE = 20
export const SOURCE_BURST = 5
/** Max sources remembered; beyond, new ones are refused until old buckets have refilled. */
export const SOURCES_MAX = 8192

/** Once under load, for at least this long. */
export const LOAD_HOLD = 1_000
export const LOAD_THRESHOLD = 100

/** Towards a godwit, initiations repeat this soon, doubling to a second, for FAST_RETRY_TIME, then at WireGuard's pace. */
export const FIRST_RETRY_TIMEOUT = 250
export const FAST_RETRY_TIMEOUT = 1_000
export const FAST_RETRY_TIME = 10_000
/** Until it is so old the same message 1 is repeated: the answer to any copy counts, also where the round trip is longer than the pause. */
export const COPIES_TIME = 3_000
/** A host that never gives up tries at this pace after REKEY_ATTEMPT_TIME. */
export const SLOW_RETRY_TIMEOUT = 15_000
/** Copies of one initiation (it is sent on all paths) are answered from memory for this long and at most this often. */
export const DUPLICATE_LIFETIME = 5_000
export const DUPLICATE_ANSWERS = 16
export const DUPLICATES_MAX = 4096

/** Max `handshake-failed` events per second for refused messages. */
export const REFUSALS_REPORTED = 10

// Proof of an address (proofs.ts).
/** RFC 9000 §8.1: max bytes sent to an address before it is proven, as a multiple of those received from it. */
export const UNPROVEN_FACTOR = 3
/** An unproven address is forgotten, and its token worth nothing, after this. */
export const PROOF_LIFETIME = 5_000
/** Unproven addresses of one peer at a time. */
export const CANDIDATES_MAX = 8
/** An unproven address is asked again this long after the last question at the earliest, when something comes from there. */
export const PROOF_RETRY = 50
/** A stock peer is asked by message 1, which costs a computation. */
export const STOCK_PROOF_RETRY = 500
/** The first datagrams of a session prove the address that its handshake was answered at, this long. */
export const HANDSHAKE_PROOF = 10_000
/** A proof is good for PROOF_EXPIRY; while data flows, a path's remote is asked again when its proof is PROOF_REFRESH old. */
export const PROOF_REFRESH = 30_000
export const PROOF_EXPIRY = 40_000
/** Bytes that may be sent to a proven address for its next proof. */
export const PROOF_REFRESH_BYTES = 100
/** A path that its peer opened and that was given up: look this often whether something comes from there again. */
export const REVIVE_LOOK = 250
/** Changes of a path's remote: burst, then one per interval (ms). Some NATs never keep a port. */
export const MOVES_BURST = 3
export const MOVES_INTERVAL = 5_000

// What one peer may have.
/** Paths that a peer opened, at a time; one more, and its own least useful one is closed. */
export const PATHS_MAX = 16
/** Paths that a peer may open again: burst, then number per second. */
export const OPENS_BURST = 64
export const OPENS_RATE = 10
/** Control payloads of one peer that are processed: burst, then number per second. */
export const CONTROL_BURST = 1_000
export const CONTROL_RATE = 2_000
/** A peer whose input made something throw may come back after this long, twice as long each time. */
export const FAULT_BAR = 1_000
export const FAULT_BAR_MAX = 600_000
/** Min interval between fresh keys of a peer (KEY_REPLACE). */
export const KEY_INTERVAL = 60_000
/** The owner has this long to store a key before it is asked again. */
export const KEY_STORE_TIME = 10_000

export const HELLO_RETRY = 250
export const HELLO_TRIES = 6
export const ANNOUNCE_RETRY = 150
export const ANNOUNCE_RETRY_MAX = 5_000
/** A path that packets use before PATH_ACCEPT: no longer than EARLY_USE_MOST, without a HELLO of the peer than EARLY_USE. */
export const EARLY_USE = 1_000
export const EARLY_USE_MOST = 3_000
/** A key for data behind message 1 waits so long for it, and that data is taken for so long behind it. */
export const PREKEY_LIFETIME = 10_000
/** Keys given to a peer at a time: it uses the one of the first direction that it gets. */
export const PREKEYS_MAX = 2
/** While no path works at all: this often, for half a minute. */
export const ANNOUNCE_ALONE = 100
export const ANNOUNCE_ALONE_TRIES = 300
/** Unanswered announcements of every path after which the session itself is doubted. */
export const ANNOUNCES_BEFORE_HANDSHAKE = 3
export const CLOSE_RETRY = 100
export const CLOSE_TRIES = 7
/** A peer that says its end has not read what was sent this long before, where the round trip is not known. */
export const UNREAD_TIME = 100
export const KEY_RETRY = 1_000
/** A removed path's ring entries wait this long for another path. */
export const CLOSING_LINGER = 10_000
/** A path that its peer opened and that fell silent is forgotten after this. */
export const REMOTE_DOWN_LINGER = 180_000
/** Max age of datagrams that are sent again: older ones TCP has retransmitted itself. */
export const RESEND_WITHIN = 3_000
/** Pause before a path declared dead is announced again. */
export const REVIVE_DELAY = 100
/**
 * The kernel refuses a path's datagrams, as a packet filter of this machine makes it do. One refusal may be that of a rate limit: the
 * path is tried every REFUSED_TRY, and is down when REFUSED_LEAST sends in a row and all of REFUSED_FOR were refused. So
 * one that lets fewer than 20 a second pass counts as none.
 */
export const REFUSED_TRY = 10
export const REFUSED_LEAST = 4
export const REFUSED_FOR = 50
/** States shakier than `up` last at least this long: no flood of events. */
export const STATE_HOLD = 1_000
export const QUALITY_INTERVAL = 1_000
/** handleTimeout this much after its time means that this end was held up. */
export const STALL = 30

// Stock peers cannot be probed; a handshake is what they answer at once.
/** Traffic out and nothing back for this long: see whether it is still there. */
export const STOCK_SILENCE = 500
/** While there is traffic, look this often. */
export const STOCK_LOOK = 125
/** Pause for an answer, and between checks. */
export const STOCK_ANSWER = 500
/** Unanswered checks after which another path that answers takes over. */
export const STOCK_CHECKS = 2
/** After an answered check the next one waits: the traffic apparently expects no answer. WireGuard's own interval. */
export const STOCK_PAUSE = REKEY_TIMEOUT
/** A dead path is tried this often. */
export const STOCK_REVIVE = 15_000
/** What was sent less than this before the last arrival may be lost too. */
export const STOCK_RESEND_MARGIN = 100
