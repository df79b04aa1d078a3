/**
 * The subject of a record, tagged, so that planners and dashboards need not parse text. The text form (`what` in status)
 * is for people and is fixed.
 */

import type { FlowFacts } from './selector.ts'
import { matches, parseSelector } from './selector.ts'

export type Subject =
  | { readonly kind: 'all' }
  | { readonly kind: 'flow'; readonly id: string }
  /** Flows that a selector names (core/selector.ts): an application, a user, a port. */
  | { readonly kind: 'application'; readonly selector: string }
  /** A policy; of a router a traffic class towards `peer`. `pinned`: its copy for flows that were moved by hand. */
  | { readonly kind: 'policy'; readonly name: string; readonly peer?: string; readonly pinned?: string }
  | { readonly kind: 'access'; readonly name: string }
  | { readonly kind: 'peer'; readonly name: string }

export const EVERYTHING: Subject = { kind: 'all' }

/** The subject of a selector's text. */
export function subjectOf(selector: string): Subject {
  const parsed = parseSelector(selector)
  if (parsed.ok && parsed.value.kind === 'all') return EVERYTHING
  if (parsed.ok && parsed.value.kind === 'flow') return { kind: 'flow', id: parsed.value.id }
  return { kind: 'application', selector }
}

export function formatSubject(subject: Subject): string {
  switch (subject.kind) {
    case 'all':
      return 'all'
    case 'flow':
      return subject.id
    case 'application':
      return subject.selector
    case 'policy':
      if (subject.peer !== undefined) return `${subject.name}.${subject.peer}`
      return `policy ${subject.name}${subject.pinned === undefined ? '' : `, pinned to ${subject.pinned}`}`
    case 'access':
    case 'peer':
      return subject.name
  }
}

/** Facts of a flow, or of a class, for finding the records about it. */
export interface Traffic {
  readonly id: string
  readonly peer: string
  readonly access: string
  readonly policy?: { readonly name: string; readonly peer?: string }
  readonly facts?: FlowFacts
}

/** Whether a subject has this traffic in it. */
export function concerns(subject: Subject, traffic: Traffic): boolean {
  switch (subject.kind) {
    case 'all':
      return true
    case 'flow':
      return subject.id === traffic.id
    case 'application': {
      const selector = parseSelector(subject.selector)
      return selector.ok && traffic.facts !== undefined && matches(selector.value, traffic.facts)
    }
    case 'policy':
      return subject.name === traffic.policy?.name && subject.peer === traffic.policy.peer
    case 'access':
      return traffic.access.split('+').includes(subject.name)
    case 'peer':
      return subject.name === traffic.peer
  }
}
