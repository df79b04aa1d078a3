/**
 * The lightweight MPTCP proxy (Hampel, Rana, Klein: "Seamless TCP Mobility Using Lightweight MPTCP Proxy"), for Multipath TCP version
 * 1 (RFC 8684): headers are rewritten packet by packet, payload is neither buffered nor terminated. It never acknowledges data
 * that the local TCP has not acknowledged, and never keeps more of a connection than its newest segment.
 */
export { mptcpDescriptor } from './descriptor.ts'
export type { ConnectionView, SubflowView } from './mechanism.ts'
