/**
 * The overlay (NTMobile, digest NT-): nodes with names and virtual addresses, tunnels between them wherever they are.
 */
export { overlayDescriptor } from './descriptor.ts'
