/**
 * When the connection controller acts: strengths in dBm, differences in dB, times in milliseconds. Our own choices; those
 * of strength follow what 802.11 radios lose: little above -75 dBm, much below -85.
 */

/** Below this a link is weak: it looks for a better point, dBm. */
export const WEAK_DBM = -70
/** Below this a link that is FADING_DB weaker than another is left by traffic, dBm; it is back SHIFT_DB above. */
export const FADING_DBM = -67
export const FADING_DB = 4
export const SHIFT_DB = 3
/** Where its strength will be in HORIZON_MS; below this the link will not last. */
export const FAILING_DBM = -80
/** A link that is to carry everything alone while another moves is above this, and HORIZON_MS later above the next. */
export const BEARING_DBM = -82
export const LASTING_DBM = -88
/** A point must be this much stronger than the present one. */
export const HYSTERESIS_DB = 6
/** The weakest point worth associating with. */
export const FAINTEST_DBM = -86
/** A point that another link uses counts for this much less: two links on one point fade together. */
export const SHARED_DB = 12
/** Penalty (dB) of a point that failed or was left recently. */
export const FAILED_DB = 15
export const FAILED_FOR_MS = 30_000
export const LEFT_DB = 8
export const LEFT_FOR_MS = 6_000
/** A clinging radio scans from this much above WEAK_DBM on: two scans show whether each point comes nearer. */
export const LOOK_DB = 8
/** Trends are computed from scans at most this far apart, and applied over the duration of a move. */
export const SCAN_TREND_MS = 5_000
export const AHEAD_MS = 600
/** Max predicted gain over the measured strength for an approaching point. */
export const RISE_DB = 6

/** A link that came up is not moved by choice for so long; for so long when it will not last. */
export const DWELL_MS = 3_000
export const DWELL_FAILING_MS = 500
/** Prediction horizon: the known duration of a move, within these bounds. */
export const HORIZON_MS = 2_000
export const MOST_HORIZON_MS = 6_000
/** Margin for moves that take longer than usual. */
export const HORIZON_MARGIN = 1.2
/** Max time for traffic to leave a link. */
export const DRAIN_MS = 1_000
export const ASSOCIATE_MS = 10_000
export const VALIDATE_MS = 8_000
/** An associated link over which nothing comes is given up after this. */
export const DEAD_MS = 1_500
export const SCAN_EVERY_MS = 1_000
export const SCAN_TIMEOUT_MS = 6_000
/** Scans are taken into account for so long. */
export const SCAN_FRESH_MS = 3_000
export const RETRY_MS = [200, 1_000, 2_000, 5_000, 10_000]
/** Moves by choice: this many at once, one more each MOVE_REFILL_MS. */
export const MOVE_BURST = 6
export const MOVE_REFILL_MS = 1_000
export const TICK_MS = 100
/** A trend counts for so long for traffic, which moves in one round trip. */
export const SOON_MS = 500
/** Time constant of the smoothed strength and of its trend. */
export const SMOOTH_MS = 250
export const TREND_MS = 600
/**
 * Strength falls with the logarithm of distance, by 10 n dB a decade: n is 3 in streets and buildings. Of a point left behind
 * in a straight line at a steady speed, a fall of s dB/s now is one of A ln(1 + s t / A) dB after t, with A = 10 n / ln 10.
 */
export const DISTANCE_DB = 30 / Math.LN10
