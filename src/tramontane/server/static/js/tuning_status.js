// The states of a fine-tuning job, in words.

import { h } from "./element.js";

const WORDS = {
  QUEUED: "Waiting to be checked",
  VALIDATING: "Checking the samples",
  VALIDATED: "Ready to start",
  STARTED: "Waiting for its turn",
  RUNNING: "Training",
  CANCELLATION_REQUESTED: "Stopping",
  CANCELLED: "Cancelled",
  FAILED: "Failed",
  FAILED_VALIDATION: "Samples refused",
  SUCCESS: "Done",
};
const ENDED = ["CANCELLED", "FAILED", "FAILED_VALIDATION", "SUCCESS"];

export function hasEnded({ status }) {
  return ENDED.includes(status);
}

export function statusChip(status) {
  return h("span", { class: "tuning-status", "data-status": status }, WORDS[status] ?? status);
}
