// Holds up to two words between two ready/valid streams, so that no combinational path crosses:
// what leaves is registered and holds still until taken, as AXI demands of a valid.
module axi_slice #(
  parameter WIDTH = 8
) (
  input wire clk,
  input wire rst,
  input wire [WIDTH-1:0] in_data,
  input wire in_vld,
  output wire in_rdy,
  output wire [WIDTH-1:0] out_data,
  output wire out_vld,
  input wire out_rdy
);
  reg [WIDTH-1:0] head;
  reg [WIDTH-1:0] spare;  // came while the head could not leave
  reg head_full;
  reg spare_full;

  assign in_rdy = !spare_full;
  assign out_data = head;
  assign out_vld = head_full;

  always @(posedge clk) begin
    if (out_rdy || !head_full) begin
      head <= spare_full ? spare : in_data;
      head_full <= spare_full || in_vld;
      spare_full <= 1'b0;
    end else if (in_vld && in_rdy) begin
      spare <= in_data;
      spare_full <= 1'b1;
    end
    if (rst) begin
      head_full <= 1'b0;
      spare_full <= 1'b0;
    end
  end
endmodule
